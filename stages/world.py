"""World: the tiny recipe's internet. Draws the generated scenes and writes them as the official raw sets and as a web.

raw/<source>/   the sets in the layouts of their authors        raw/urls/urls.parquet   the URL table
web/            what the loopback server serves, by routes.json  eval/<benchmark>/       held-out questions
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar

from llavaflow.datasets._index import IndexWriter
from llavaflow.datasets._scenes_books import write_ocrvqa
from llavaflow.datasets._scenes_chat import write_sharegpt
from llavaflow.datasets._scenes_coco import write_aokvqa, write_coco, write_okvqa, write_refcoco, write_vqav2
from llavaflow.datasets._scenes_exam import write_exam
from llavaflow.datasets._scenes_files import WorldFiles
from llavaflow.datasets._scenes_open import write_open_exam
from llavaflow.datasets._scenes_sets import write_gqa, write_textcaps, write_vg
from llavaflow.datasets._scenes_web import write_web
from llavaflow.infra.artifact import Artifact, Kind
from llavaflow.infra.context import RunContext
from llavaflow.stages._stage import Stage


@dataclass(frozen=True, kw_only=True)
class World(Stage):
    """How many records of each source to generate.

    coco_images is shared, as in the real sets, by the captions, instances, VQAv2, OK-VQA, A-OKVQA and RefCOCO.
    exam_questions is per question type; three open questions are asked about each of open_images; side is the shorter
    side of a picture in pixels.
    """

    kind: ClassVar[Kind] = "shards"

    seed: int = 0
    side: int = 72
    coco_images: int = 1200
    gqa_images: int = 800
    vg_images: int = 900
    ocrvqa_books: int = 900
    textcaps_images: int = 260
    sharegpt_chats: int = 480
    urls: int = 1600
    exam_questions: int = 240
    open_images: int = 10

    def run(self, ctx: RunContext) -> Artifact:
        planted: dict[str, int] = {}
        with IndexWriter(ctx.out) as index:
            files = WorldFiles(ctx.out, index)
            for _, write in ctx.track(self._steps(files, planted), "world", total=9):
                write()
        samples = sum(count for name, count in files.counts.items() if name.endswith("_records"))
        return ctx.finish({"samples": samples, "planted": planted, **files.counts})

    def _steps(self, files: WorldFiles, planted: dict[str, int]) -> list[tuple[str, Callable[[], object]]]:
        seed, side = self.seed, self.side
        return [
            ("coco", lambda: self._coco_family(files)),
            ("gqa", lambda: write_gqa(files, seed=seed, images=self.gqa_images, side=side)),
            ("vg", lambda: write_vg(files, seed=seed, images=self.vg_images, side=side)),
            ("ocrvqa", lambda: write_ocrvqa(files, seed=seed, books=self.ocrvqa_books, side=side)),
            ("textcaps", lambda: write_textcaps(files, seed=seed, images=self.textcaps_images, side=side)),
            ("sharegpt", lambda: write_sharegpt(files, seed=seed, chats=self.sharegpt_chats)),
            ("web", lambda: planted.update(write_web(files, seed=seed, urls=self.urls, side=side))),
            ("exam", lambda: write_exam(files, seed=seed, questions=self.exam_questions, side=side)),
            ("open", lambda: write_open_exam(files, seed=seed, images=self.open_images, side=side)),
        ]

    def _coco_family(self, files: WorldFiles) -> None:
        numbered = write_coco(files, seed=self.seed, images=self.coco_images, side=self.side)
        write_vqav2(files, numbered, seed=self.seed)
        write_okvqa(files, numbered, seed=self.seed)
        write_aokvqa(files, numbered, seed=self.seed)
        write_refcoco(files, numbered, seed=self.seed)

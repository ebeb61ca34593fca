"""`pipeline score`: score stored answers of any tool by the published rule of a benchmark."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from llavaflow.infra.errors import InputError
from llavaflow.pipelines._cli._options import emit, json_option

if TYPE_CHECKING:
    from rich.console import Console

    from llavaflow.datasets.benchmarks._benchmark import Benchmark, Options, Result

FILE = click.Path(path_type=Path)


@click.command()
@click.argument("bench")
@click.option("--answers", type=FILE, required=True, help="LLaVA, lmms-eval, id-to-text or upload form.")
@click.option("--gold", type=FILE, help="Gold file or folder in the authors' layout, plain or gzipped.")
@click.option("--questions", type=FILE, help="Question file, where the answers lack image or category.")
@click.option("--reviews", type=FILE, multiple=True, help="Stored judge output; once per run.")
@click.option("--judge", "judge_model", metavar="MODEL", help="Ask this model at $OPENAI_BASE_URL.")
@click.option("--judge-runs", type=click.IntRange(min=1), default=1, show_default=True, help="Reviews per answer.")
@click.option("--judge-batch", is_flag=True, help="Ask through the Batch API: half the price, within a day.")
@click.option("--upload", type=FILE, metavar="OUT", help="Write the file that the benchmark's server takes.")
@click.option("--box-frame", type=click.Choice(["image", "padded"]), default="image", show_default=True)
@click.option("--allow-missing", is_flag=True, help="Count missing answers as wrong instead of refusing.")
@json_option
def command(
    bench: str,
    answers: Path,
    gold: Path | None,
    questions: Path | None,
    reviews: tuple[Path, ...],
    judge_model: str | None,
    judge_runs: int,
    judge_batch: bool,
    upload: Path | None,
    box_frame: str,
    allow_missing: bool,
    as_json: bool,
) -> None:
    """Score stored answers of BENCH against its gold, or write the file for its server.

    Missing, repeated and unknown answers are refused; replies that the rule cannot read are counted. In a file for a
    server missing answers are filled as it wants them.
    """
    from llavaflow.datasets.benchmarks._answers import read_answers, with_questions
    from llavaflow.datasets.benchmarks._benchmark import Options, load_benchmark

    benchmark = load_benchmark(bench)
    if reviews and not benchmark.judged:
        raise InputError(f"{bench} is scored by its rule: it takes no --reviews.")
    options = Options(
        allow_missing=allow_missing,
        box_frame="padded" if box_frame == "padded" else "image",
        questions=questions,
        reviews=reviews,
    )
    given = with_questions(read_answers(answers), questions)
    document: dict[str, Any] = {"benchmark": bench}
    if upload is not None:
        document |= _write_upload(benchmark, given, gold or questions, options, upload)
    if gold is None and upload is None:
        raise InputError(f"--gold is missing. {bench} reads: {benchmark.layout}.")
    result = None
    if gold is not None and judge_model is None:
        # for an upload the gold of a judged benchmark is but the list of its questions
        if upload is None or reviews or not benchmark.judged:
            try:
                document |= (result := benchmark.score(given, gold, options)).as_json()
            except InputError as error:
                if upload is None:
                    raise
                # the file for the server is written, holes filled; a score of them is another matter
                document["not_scored"] = str(error)
    elif gold is not None and judge_model is not None:
        from llavaflow.stages._judging import Judging, score_judged

        judging = Judging(model=judge_model, runs=judge_runs, batch=judge_batch)
        result, document["judge"] = score_judged(benchmark, given, gold, options, judging, answers)
        document |= result.as_json()
    emit(document, as_json, lambda console: _render(console, document, result))


def _write_upload(
    benchmark: Benchmark, answers: Any, questions: Path | None, options: Options, out: Path
) -> dict[str, Any]:
    from llavaflow.datasets.benchmarks._upload import write

    return {"upload": str(out), "filled": write(benchmark, answers, questions, options, out)}


def _render(console: Console, document: dict[str, Any], result: Result | None) -> None:
    from llavaflow.stages._report import print_result

    if result is not None:
        print_result(console, result)
    if "judge" in document:
        judge = document["judge"]
        console.print(
            f"judge: {judge['title']}, {judge['date']}; {judge['requests']} requests, {judge['tokens']} tokens",
            markup=False,
        )
    if "upload" in document:
        console.print(f"wrote {document['upload']}: {document['filled']} missing answers filled", markup=False)
    if "not_scored" in document:
        console.print(f"not scored: {document['not_scored']}", markup=False)

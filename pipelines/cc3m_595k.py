"""CC3M-595K: Conceptual Captions, balanced by the noun phrases of its texts; the first projectors learned from it.

`data/cc3m/Train_GCC-training.tsv` is the table as Google publishes it. The authors chose among all 3.3 million texts
and then fetched; here the images are fetched first and the rule sees the texts of those that could be had.
"""

from __future__ import annotations

from llavaflow.pipelines import _full_size as base
from llavaflow.pipelines._recipe import Recipe
from llavaflow.stages.caption import Caption
from llavaflow.stages.download import Download
from llavaflow.stages.filter import Filter
from llavaflow.stages.filters.concepts import Concepts
from llavaflow.stages.filters.decode import Decode

PAPER = "Visual Instruction Tuning (arXiv 2304.08485), appendix: the rule of CC3M-595K"

# a good part of the addresses is dead: 15 % in 2023, users report up to 28 %
download = Download(urls=base.DATA / "cc3m" / "Train_GCC-training.tsv", retry_passes=1, success_floor=0.6)
keep = Filter(data=download, filters=(Decode(), Concepts(min_captions=3, max_captions=100)))
caption = Caption(data=keep, model=None)

RECIPE = Recipe(
    name="cc3m-595k",
    title="CC3M-595K, from the table of Conceptual Captions to records for pretraining",
    stages={"download": download, "filter": keep, "caption": caption},
    sources=base.cite("filter", PAPER, "filters[1].min_captions filters[1].max_captions"),
)

"""MMBench-CN: the Chinese MMBench, scored exactly as the English one; only the prompt's last line differs."""

from __future__ import annotations

from llavaflow.datasets.benchmarks._benchmark import variant
from llavaflow.datasets.benchmarks.mmbench import BENCHMARK as MMBENCH
from llavaflow.datasets.benchmarks.mmbench import asker, reader

CHINESE = ("mmbench_dev_cn*.tsv", "MMBench_DEV_CN*.tsv", "*_cn*.tsv", "*_CN*.tsv")
LETTER_LINE = "请直接回答选项字母。"

BENCHMARK = variant(
    MMBENCH,
    name="mmbench-cn",
    title="MMBench-CN dev (circular)",
    layout="mmbench_dev_cn_20231003.tsv: index, question, hint, A, B, C, D, answer, category, image, ...",
    prompt=f"{{hint}}\\n{{question}}\\nA. ...\\n{LETTER_LINE}",
    column="MMB-CN",
    read=reader(CHINESE),
    ask=asker(CHINESE, "mmbench-cn", LETTER_LINE),
)

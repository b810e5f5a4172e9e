"""The published CORE bundle: its tasks, the hash of every file, and its download address.

Tasks and baselines are those of DCLM (mlfoundations/dclm at 361714b: eval/heavy.yaml,
additional_aggregation.json; v1 is eval_meta_data_v1.csv, v2 the present table), the data is
mosaicml/llm-foundry's (at 8c8dd48), the archive nanochat's (@karpathy), which has both. The hashes
are of files whose git blob ids are llm-foundry's. Standard library only.
"""

# ruff: noqa: E501  (a line of these tables is a row)

import json
from typing import cast

from model.core.task import Kind, Task

URL = "https://karpathy-public.s3.us-west-2.amazonaws.com/eval_bundle.zip"
ARCHIVE = "eval_bundle.zip"
FOLDER_IN_ARCHIVE = "eval_bundle"

# name, kind, shots, delimiter, baselines v1 and v2 in per cent, file
_TABLE = """
hellaswag_zeroshot                multiple_choice    0   " "           25   25    language_understanding/hellaswag.jsonl
jeopardy                          language_modeling  10  "\\nAnswer: "  0    0     world_knowledge/jeopardy_all.jsonl
bigbench_qa_wikidata              language_modeling  10  " "           0    0     world_knowledge/bigbench_qa_wikidata.jsonl
arc_easy                          multiple_choice    10  "\\nAnswer: "  25   25    world_knowledge/arc_easy.jsonl
arc_challenge                     multiple_choice    10  "\\nAnswer: "  25   25    world_knowledge/arc_challenge.jsonl
copa                              multiple_choice    0   " "           50   50    commonsense_reasoning/copa.jsonl
commonsense_qa                    multiple_choice    10  " "           20   40.3  commonsense_reasoning/commonsense_qa.jsonl
piqa                              multiple_choice    10  "\\nAnswer: "  50   50    commonsense_reasoning/piqa.jsonl
openbook_qa                       multiple_choice    0   " "           25   25    commonsense_reasoning/openbook_qa.jsonl
lambada_openai                    language_modeling  0   " "           0    0     language_understanding/lambada_openai.jsonl
hellaswag                         multiple_choice    10  " "           25   25    language_understanding/hellaswag.jsonl
winograd                          schema             0   " "           50   50    language_understanding/winograd_wsc.jsonl
winogrande                        schema             0   " "           50   50    language_understanding/winogrande.jsonl
bigbench_dyck_languages           language_modeling  10  " "           0    0     symbolic_problem_solving/bigbench_dyck_languages.jsonl
agi_eval_lsat_ar                  multiple_choice    3   " "           20   25    symbolic_problem_solving/agi_eval_lsat_ar.jsonl
bigbench_cs_algorithms            language_modeling  10  " "           0    0     symbolic_problem_solving/bigbench_cs_algorithms.jsonl
bigbench_operators                language_modeling  10  " "           0    0     symbolic_problem_solving/bigbench_operators.jsonl
bigbench_repeat_copy_logic        language_modeling  10  " "           0    0     symbolic_problem_solving/bigbench_repeat_copy_logic.jsonl
squad                             language_modeling  10  " "           0    0     reading_comprehension/squad.jsonl
coqa                              language_modeling  0   " "           0    0     reading_comprehension/coqa.jsonl
boolq                             multiple_choice    10  "\\nAnswer: "  62   62    reading_comprehension/boolq.jsonl
bigbench_language_identification  multiple_choice    10  " "           9.1  25    language_understanding/bigbench_language_identification.jsonl
"""

SHA256 = {
    "commonsense_reasoning/commonsense_qa.jsonl": "2771f63f8127c0725b1f6b0ef2cd2ef6469168ae5875fc8d276b25b4f32c8c1a",
    "commonsense_reasoning/copa.jsonl": "595dca44dec54c849490bd403a3e24a29e3b944065783222ebb0eb1a55298846",
    "commonsense_reasoning/openbook_qa.jsonl": "adb2e5c7f8db810ddad4d6b2bf53dcc86dcc545499f7aafcaf42a8e179476c09",
    "commonsense_reasoning/piqa.jsonl": "d2870e73aec5154df3faf259b7700876e11608eebdf69e9d6667435673dbe4e0",
    "language_understanding/bigbench_language_identification.jsonl": "80c98d8e7ab8213513d1643886229c05c40a6837353b07c19ac7bd860668954e",
    "language_understanding/hellaswag.jsonl": "52a31d32b14dff7713a705be664cbeff77eb66edcf7f8b0a5e9408633929b448",
    "language_understanding/lambada_openai.jsonl": "411bfbe5b9054346b6a19299c0242670adbefb9162efd958593cbc0290b8c9dc",
    "language_understanding/winograd_wsc.jsonl": "746336c27cd2e39a554cb1b8b4869d0f1ae2577ac5bfe799842d26bca5a5bf5e",
    "language_understanding/winogrande.jsonl": "ea1592526f3bfdd0948ed3acb1b4dfa3f83d23698917118688ee1df7f8d4b8d7",
    "reading_comprehension/boolq.jsonl": "454ff101e614370bb1807fe7ebbda6fdb57e794b9662cc1ccae211bf1ff626c8",
    "reading_comprehension/coqa.jsonl": "0c2b8029776a138f755d065b9506eb8e91bbd38c44dce321a75f9987bb7875aa",
    "reading_comprehension/squad.jsonl": "41fe6c43e725c0dc9161465066932c46edc390bf4019c361c500bbc4b766a350",
    "symbolic_problem_solving/agi_eval_lsat_ar.jsonl": "9ffd73480b51746c11627e56239f8b87035eb255cb92c3a58fd64e2e4b65fb56",
    "symbolic_problem_solving/bigbench_cs_algorithms.jsonl": "8485683a8c7e7e6c9fc6ca3cc81140fd85edb27f34406a6736d1539cf7ebcb3a",
    "symbolic_problem_solving/bigbench_dyck_languages.jsonl": "106ba9ac7507c7ab385c5e59c49cd57aa83025abf080d9b2a2661c0d6c6dbcc5",
    "symbolic_problem_solving/bigbench_operators.jsonl": "41e2964ad619c49edd97c22b2c50f922a0241255d906a754bf81a20f4f66b85f",
    "symbolic_problem_solving/bigbench_repeat_copy_logic.jsonl": "8febd2c0080a15680cd17f92bfa30d87abcfac021e646e55d0b8ad69f0cfa767",
    "world_knowledge/arc_challenge.jsonl": "1ae3aeedf1951d881cbd5c2e3a31e78a1993d251479afbe4cb413b6707244636",
    "world_knowledge/arc_easy.jsonl": "d2d12e59543acf9a5ef6079634a72b30215e36c2fd4236fff3bc855d287b87f5",
    "world_knowledge/bigbench_qa_wikidata.jsonl": "bb0d22727cb25beffb022c8e8c0c3e1159c8b3c7bd7284603c0d6491f8616265",
    "world_knowledge/jeopardy_all.jsonl": "187e7f270a440c63d6cf11a57459fdc7e0bce889338225e42cc88e24ee13d52e",
}
"""Hash of each file in eval_data/."""


def _task(line: str) -> Task:
    start, end = line.index('"'), line.rindex('"') + 1
    name, kind, shots = line[:start].split()
    v1, v2, file = line[end:].split()
    baselines = {"v1": float(v1) / 100, "v2": float(v2) / 100}
    delimiter = json.loads(line[start:end])
    return Task(
        name=name,
        file=file,
        kind=cast(Kind, kind),
        shots=int(shots),
        delimiter=delimiter,
        baselines=baselines,
    )


TASKS = tuple(_task(line) for line in _TABLE.strip().splitlines())

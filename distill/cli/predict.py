"""``distill predict``."""

from __future__ import annotations

from argparse import Namespace

from distill.cli.command import Command, argument
from distill.cli.parser import Overrides

__all__ = ["PREDICT"]

_EPILOG = """\
It prints a line a row, in their order, of fields with tabs between them:
  text classification    label, probability, text (with --top N: N labels with theirs)
  multi-label            labels, probabilities, text (- where no class is above the threshold)
  regression             number, text
  token classification   word, tag, probability: a line a word, and an empty one after each row
  causal-lm              text, what the model goes on with (always the most probable token)
  seq2seq                text, what the model writes for it (likewise, or with --beams N)
  masked-lm              tokens for the mask, with probabilities, and the text: a line a mask

A .txt file and the standard input hold a text a line: pairs of texts have a tab between them, words a blank. Of other
files the columns are read that the model was trained on. What says how a file is read may be given as for distill fit:
  %(prog)s RUN reviews.csv --data.columns.text review --data.reader.sep ';' --data.max_length 256
"""


def _predict(options: Namespace, overrides: Overrides) -> None:
    from distill.workflows.predict.run import predict

    predict(
        options.run,
        options.file,
        jsonl=options.jsonl,
        top=options.top,
        batch_size=options.batch_size,
        new_tokens=options.max_new_tokens,
        beams=options.beams,
        overrides=overrides,
    )


PREDICT = Command(
    description="Print what a model says of texts: that of a run, a student/, an export, or a folder of transformers.",
    arguments=(
        argument("run", metavar="RUN", nargs="?", help="the folder of a run, or of a model"),
        argument(
            "file",
            metavar="FILE",
            nargs="?",
            help="csv, tsv, json, jsonl, parquet or txt, or a picture; the standard input, with texts or the paths of "
            "pictures, if not given, or -",
        ),
        argument("--jsonl", action="store_true", help="print a JSON object a row"),
        argument("--top", type=int, metavar="N", help="alternatives to name (of a mask 5)"),
        argument("--batch-size", type=int, default=32, metavar="N", help="rows that are read at once (%(default)s)"),
        argument(
            "--max-new-tokens",
            type=int,
            metavar="N",
            help="tokens written at most (40; seq2seq: as trained)",
        ),
        argument("--beams", type=int, metavar="N", help="texts that seq2seq tries for the likeliest (1)"),
    ),
    run=_predict,
    example="RUN FILE",
    epilog=_EPILOG,
)

"""The command line of scripts that measure rows one by one: WORK HAWSER MODEL BOOKS [--row ROW...] [--table]."""
import argparse
from pathlib import Path


def main(doc, rows, measure, table):
    """`measure(options, row)` for each row that is asked for, of all in `rows`; --table: `table(options)` instead."""
    parser = argparse.ArgumentParser(description=doc, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("work", type=Path)
    parser.add_argument("hawser")
    parser.add_argument("model")
    parser.add_argument("books", type=Path)
    parser.add_argument("--row", choices=rows, nargs="+", default=list(rows))
    parser.add_argument("--threads", default="0")
    parser.add_argument("--table", action="store_true")
    options = parser.parse_args()
    if options.table:
        return table(options)
    for row in options.row:
        measure(options, row)

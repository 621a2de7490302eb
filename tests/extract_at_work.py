"""Extracts with a slow scripted reader, to be killed: python extract_at_work.py RUN OUT LOG INPUT... (as a process of its own)."""

import sys
from pathlib import Path

from scripted_reading import Reader, answering, reply, source_of

from whet.extract.targets import Targets
from whet.pipeline.extract_step import Order, extract
from whet.records import Completion, Request


def main() -> None:
    run, out, log, *inputs = sys.argv[1:]

    def say(request: Request) -> Completion:
        with Path(log).open("a", encoding="utf-8") as file:  # each line is written at once: a kill loses none
            file.write(ascii(source_of(request)) + "\n")
        return reply(request)

    extract(Order(tuple(inputs), Path(run), Targets(Path(out))), answering=answering(Reader(say, room=4, wait_s=0.004)))


if __name__ == "__main__":
    main()

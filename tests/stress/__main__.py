"""`make stress`: damaged files, kills, races, full disks and large pictures; a table of what survived.

An escape is a result that is neither right nor refused by one clear line: another exception, a dead or hanging process,
lost or different output. Every trial has a number, from which it is drawn, so that it can be tried again. Status 1 for
any escape. Half an hour on two cores.
"""

import argparse
import sys
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pandas as pd
from commands import Workshop, try_kills, try_pairs, try_places
from damage import KINDS, try_damaged_files
from many import try_many
from pictures import try_largest, try_seams, try_soak, try_ways


def trials(args):
    """Every kind of trial, a row each."""
    with ThreadPoolExecutor(2) as pool:
        yield from pool.map(try_damaged_files, KINDS, [args.files] * len(KINDS))
    with tempfile.TemporaryDirectory() as folder:
        shop = Workshop(Path(folder) / "with a space")
        commands = {
            "a training": shop.training,
            "a folder's restoration": shop.denoising,
            "a benchmark": shop.benchmark,
            "a download": shop.download,
            "a reproduction": shop.reproduction,
        }
        for what, command in commands.items():
            few = what == "a folder's restoration"  # `try_many` interrupts one, too
            yield try_kills(shop, what, command, args.kills // 4 if few else args.kills)
            if what != "a reproduction":
                yield try_pairs(shop, what, command, args.kills // 4)
        del commands["a reproduction"]
        yield from try_places(shop, commands)
    yield try_largest()
    yield try_soak(args.soak)
    yield try_many(args.folder)
    yield try_ways()
    yield try_seams()


def main() -> int:
    parser = argparse.ArgumentParser(prog="make stress", description=__doc__.splitlines()[0])
    parser.add_argument("--files", type=int, default=3000, help="damaged files of each kind")
    parser.add_argument("--kills", type=int, default=20, help="kills of each command; a quarter as many pairs")
    parser.add_argument("--soak", type=int, default=200, help="pictures that one process restores")
    parser.add_argument("--folder", type=int, default=1000, help="images of a folder, some hundreds at least")
    rows = []
    for row in trials(parser.parse_args()):
        rows.append(row)
        print(*(f"{name} {value}" for name, value in row.items() if value != ""), sep=", ", flush=True)
    table = pd.DataFrame(rows)
    print(table.to_markdown(index=False))
    return int(table["escaped"].sum() > 0)


if __name__ == "__main__":
    sys.exit(main())

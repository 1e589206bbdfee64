"""Writes one HTML file that shows a run: curves, numbers, pictures, latents, warnings.

    python -m radiovae_jax.report --workdir runs/radio

RUN/report.html holds all it shows and loads nothing, so it can be mailed, archived and
opened without a network. What a run does not have yet (an evaluation, latents) is a
line that says which command makes it. Training ends with it, an evaluation and an
export of latents renew it.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import sys
from collections.abc import Sequence

from radiovae_jax import cli, stages
from radiovae_jax.reporting import report_page


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    parser = cli.Parser(doc=__doc__, prog="python -m radiovae_jax.report")
    words = dict(metavar="DIR", help="folder of the run")
    parser.add_argument("--workdir", type=cli.path, required=True, **words)
    parser.add_debug()
    args = parser.parse_args(argv)

    def work() -> None:
        charts = stages.charts(args.workdir)
        cli.say(f"written: {report_page.write(args.workdir, charts)}")

    return cli.status(work, debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())

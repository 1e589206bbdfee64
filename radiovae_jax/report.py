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

import pathlib

from absl import app, flags

from radiovae_jax import cli
from radiovae_jax.reporting import report_page
from radiovae_jax.vae.charts import CHARTS

WORKDIR = cli.define_path("workdir", None, "Folder of the run.")
DEBUG = flags.DEFINE_bool("debug", False, "Show the traceback of an error.")


def main(argv: list[str]) -> None:
    with cli.one_message(debug=DEBUG.value):
        cli.nothing_more(argv)
        page = report_page.write(pathlib.Path(WORKDIR.value), CHARTS)
        cli.say(f"written: {page}")


if __name__ == "__main__":
    flags.mark_flag_as_required("workdir")
    app.run(main, flags_parser=cli.parse)

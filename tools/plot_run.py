"""Draws the figures of a run into its folder figures/, while it trains or after.

    python tools/plot_run.py runs/radio
    python tools/plot_run.py runs/radio --latents 4     # and latents of four maps:
                                                        # reads checkpoint and data

figure_1_training_phases.png                 losses before and after the discriminator
figure_2_loss_components_comprehensive.png   every term
figure_3_multi_axis_analysis.png             reconstruction, KL, adversarial, three axes
figure_4_normalized_comparison.png           all losses on one scale, three ways
figure_5_training_summary.png                quality, balance, samples, resources

Of a second stage the fifth alone is drawn.
"""

from radiovae_jax import ctrl_c

if __name__ == "__main__":
    ctrl_c.ends_program()

import sys
from collections.abc import Sequence

from radiovae_jax import cli, stages
from radiovae_jax.reporting import artifacts


def main(argv: Sequence[str] | None = None) -> int:
    """Returns the exit status; what goes wrong is said in one message."""
    parser = cli.Parser(doc=__doc__)
    parser.add_argument("workdir", type=cli.path, help="folder of the run")
    parser.add_argument(
        "--latents",
        type=cli.at_least(0),
        default=0,
        metavar="N",
        help="draw the latents of so many maps as well (default: none)",
    )
    parser.add_debug()
    args = parser.parse_args(argv)

    def draw() -> None:
        cli.start_jax()
        stage = stages.charts(args.workdir)
        paths = artifacts.training_figures(args.workdir, stage)
        if args.latents:
            paths += artifacts.latent_figures(args.workdir, stage, count=args.latents)
        for path in paths:
            cli.say(str(path))

    return cli.status(draw, debug=args.debug)


if __name__ == "__main__":
    sys.exit(main())

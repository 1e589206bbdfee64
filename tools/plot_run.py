"""Draws the figures of a run into its folder figures/, while it trains or after.

    python tools/plot_run.py runs/radio
    python tools/plot_run.py runs/radio --latents 4     # and latents of four maps:
                                                        # reads checkpoint and data

figure_1_training_phases.png                 losses before and after the discriminator
figure_2_loss_components_comprehensive.png   every term
figure_3_multi_axis_analysis.png             reconstruction, KL, adversarial, three axes
figure_4_normalized_comparison.png           all losses on one scale
figure_5_training_summary.png                quality, balance, samples, resources
"""

import argparse
import pathlib

from radiovae_jax import command_line, showing


def main(arguments: list[str] | None = None) -> None:
    parser = argparse.ArgumentParser(
        description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter
    )
    parser.add_argument("workdir", type=pathlib.Path, help="folder of the run")
    parser.add_argument(
        "--latents",
        type=int,
        default=0,
        help="draw the latents of so many maps as well (default: none)",
    )
    parser.add_argument("--debug", action="store_true", help="show the traceback")
    args = parser.parse_args(arguments)
    with command_line.one_message(debug=args.debug):
        paths = showing.training_figures(args.workdir)
        if args.latents > 0:
            paths += showing.latent_figures(args.workdir, count=args.latents)
        for path in paths:
            print(path)


if __name__ == "__main__":
    main()

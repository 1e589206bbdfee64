"""The charts that a report shows of the second stage: {title: logged names}."""

CHARTS: dict[str, tuple[str, ...]] = {
    "PSNR": ("val/psnr",),
    "SSIM": ("val/ssim",),
    "NMSE": ("val/nmse",),
    "RMSE and MAE": ("val/rmse_db", "val/mae_db"),
    "Loss": ("train/loss", "val/loss"),
    "Velocity": ("train/v_loss", "val/v_loss"),
    "Decoupled: error of C and of the noise": (
        "train/c_loss",
        "val/c_loss",
        "train/n_loss",
        "val/n_loss",
    ),
    "Norms, denoiser": (
        "train/denoiser_grad_norm",
        "train/denoiser_update_norm",
        "train/denoiser_param_norm",
    ),
}

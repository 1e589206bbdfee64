"""The charts that a report shows of a VAE's training: {title: logged names}."""

CHARTS: dict[str, tuple[str, ...]] = {
    "PSNR": ("val/psnr",),
    "SSIM": ("val/ssim",),
    "NMSE": ("val/nmse",),
    "RMSE and MAE": ("val/rmse_db", "val/mae_db"),
    "Reconstruction, rec_loss": ("train/rec_loss", "val/rec_loss"),
    "KL": ("train/kl_loss", "val/kl_loss"),
    "Further pixelwise terms": (
        "train/edge_loss",
        "train/pinn_loss",
        "train/ssim_loss",
    ),
    "LPIPS, unweighted": ("train/perceptual_loss", "val/perceptual_loss"),
    "Total and likelihood": ("train/total_loss", "train/nll_loss", "val/total_loss"),
    "Adversarial losses": ("train/g_loss", "train/disc_loss"),
    "Logits of the discriminator": ("train/logits_real", "train/logits_fake"),
    "Discriminator's accuracy": ("train/disc_accuracy",),
    "d_weight": ("train/d_weight",),
    "Further adversarial terms": (
        "train/feature_matching_loss",
        "train/r1_loss",
        "train/lecam_loss",
    ),
    "logvar, learned": ("train/logvar",),
    "Norms, autoencoder": (
        "train/ae_grad_norm",
        "train/ae_update_norm",
        "train/ae_param_norm",
    ),
    "Norms, discriminator": (
        "train/disc_grad_norm",
        "train/disc_update_norm",
        "train/disc_param_norm",
    ),
    "Range of reconstructions (maps: ±1)": ("train/recon_min", "train/recon_max"),
    "Range of the posterior's log-variance": (
        "train/posterior_logvar_min",
        "train/posterior_logvar_max",
    ),
    "Diversity of samples": ("val/sample_diversity",),
    "KL weight": ("train/kl_weight",),
    "disc_factor": ("train/disc_factor",),
}

"""Algorithm 1 of DAP: sampling from a diffusion model, guided towards the real data."""

import torch

from recover.dap.guidance import guidance, rms


@torch.no_grad()
def sample(backbone, condition, generators, reals, o, after_step=None):
    """Sample images of one class (DAP, Algorithm 1; the VP-SDE is discretised as DDPM).

    backbone: recover.dap.backbones.Backbone, the frozen model. condition: its condition for the
    class. generators: a CPU torch.Generator for each of n images, from which come first x_T, then
    the noise of every step. reals: function of t that gives guidance.Reals, the features of the
    real images of the class, noised to the same t. o: recover.dap.options.Sampling. after_step:
    called after every step with (step, t, [2, n]): the mean distance to the real images and
    RMS(gamma g_t), or None where the step was not guided.
    Returns x_0 [n, C, H, W], float32.
    """
    x = backbone.noise(generators)
    for step, t in enumerate(backbone.timesteps(o.steps)):
        z_reals = reals(t) if o.guides(step) else None
        x_next, logs = torch.empty_like(x), []
        for first in range(0, len(x), o.batch_size):
            rows = slice(first, first + o.batch_size)
            x_t = x[rows]

            # 1. The ordinary step: x~_{t-1}, with classifier-free guidance
            prediction = backbone.predict(x_t, t, condition, o.cfg_scale, o.cfg_channels)
            x_next[rows] = backbone.denoise(prediction, t, x_t, generators[rows])

            if z_reals is not None:
                # 2. and 3. g_t = -grad (1/N) sum_i D_K(phi(x_t, t), phi(x_t^i, t))
                g, distance = guidance(lambda x, t=t: backbone.features(x, t, condition), x_t,
                                       z_reals)
                # 4. x_{t-1} = x~_{t-1} + gamma g_t
                push = o.gamma * scaled(g, o.guidance_scale_by, prediction, backbone, t)
                x_next[rows] += push
                logs.append(torch.stack([distance, rms(push).flatten()]))
        x = x_next
        if after_step is not None:
            after_step(step, t, torch.cat(logs, 1) if logs else None)
    return x


def scaled(g, by, prediction, backbone, t):
    """g_t as the paper quotes it ("none"), or made comparable over steps and layers.

    sigma: times the standard deviation of the step's noise (MGD3). rms: at the size of the noise
    that the model predicts, sqrt(1 - abar_t) RMS(eps) g / RMS(g), image by image (IGD).
    """
    if by == "sigma":
        return backbone.sigma(t) * g
    if by == "rms":
        eps = prediction[:, : g.shape[1]]
        return backbone.noise_level(t) * rms(eps) / rms(g).clamp_min(1e-20) * g
    return g

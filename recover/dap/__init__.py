"""DAP (Su et al., ICLR 2026): images sampled from a diffusion model, guided towards real ones."""

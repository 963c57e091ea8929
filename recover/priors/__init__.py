"""Statistics beyond those that BatchNorm layers keep, and the density term (G-VBSM, EDC)."""

"""What flows between the stages: image sets, the run folder, augmentation, epoch plans, label files."""

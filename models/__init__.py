"""Networks, teachers, their BatchNorm statistics, the ensemble rules, and training teachers."""

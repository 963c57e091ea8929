"""Speed and memory beside a plain reference and beside a floor, and what number formats cost."""

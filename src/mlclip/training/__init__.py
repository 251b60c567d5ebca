"""From data to run folders: training loops, fine-tuning, pretraining, extending, references."""

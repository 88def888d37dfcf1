"""What a model learns from: samples, tasks and mixtures, pictures, and streams that can be resumed."""

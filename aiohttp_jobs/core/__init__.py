"""The scheduler: jobs, their slots and their ends. The standard library, nothing else."""

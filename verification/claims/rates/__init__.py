"""Claims on convergence rates and consensus distances."""

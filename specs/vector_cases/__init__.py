"""The golden vectors: which cases exist, what refquant gives for them, and what the third opinion says."""

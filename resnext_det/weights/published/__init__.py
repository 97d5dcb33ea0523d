"""Find published weights: the catalog and the Hugging Face hub, with what they say of files."""

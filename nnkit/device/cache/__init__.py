"""What is kept on disk between runs, where nobody else can write. Imports nothing else of nnkit."""

"""What a reviewer sees."""

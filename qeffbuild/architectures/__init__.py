"""What is special about one model_type, a file each, found by its name; a model that the export understands has none."""

"""What every compiler for Cloud AI 100 wants alike: the graph's form, its specializations, the folder that it reads."""

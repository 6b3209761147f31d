"""Designs: which models, ways of reasoning and questions a study measures, and its report."""

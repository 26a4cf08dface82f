"""Using a trained model: prediction, analysis and export."""

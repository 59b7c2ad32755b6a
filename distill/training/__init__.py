"""The LightningModule, its optimizer, and how it is spread over processes."""

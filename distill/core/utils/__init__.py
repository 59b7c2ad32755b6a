"""Files, errors, secrets, tables: what knows nothing of models. Without torch."""

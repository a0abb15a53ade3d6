"""All that a store keeps of its models, as pages that keep themselves up to date."""

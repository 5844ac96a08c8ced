"""The shop floor reads images here: specs, manifests, pixels, simulated wafers."""

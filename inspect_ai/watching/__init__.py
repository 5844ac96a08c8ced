"""Watching scans for drift: has the camera changed, or the product?"""

"""The family of timm's VisionTransformer: all tokens attend to all, blocks are alike."""

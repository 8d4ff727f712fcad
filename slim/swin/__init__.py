"""The family of timm's SwinTransformer: windows that shift, stages that halve the grid."""

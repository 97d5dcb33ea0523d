"""Name the backbones, heads and anchors that a configuration may ask for."""

from __future__ import annotations

PLAIN_BACKBONES = ("build_resnext_backbone", "build_resnet_backbone")
"""Names of the network alone: the plugin's and detectron2's."""

P6_FROM_P5_BACKBONE = "build_retinanet_resnext_fpn_p5_backbone"
"""Name of the pyramid whose p6 is computed from p5, as in torchvision's and MLPerf's RetinaNet."""

P6_P7_BACKBONES = (
    "build_retinanet_resnext_fpn_backbone",
    "build_retinanet_resnet_fpn_backbone",
    P6_FROM_P5_BACKBONE,
)
"""Names of the pyramids with p6 and p7: from res5 the plugin's and detectron2's, and from p5."""

FPN_BACKBONES = ("build_resnext_fpn_backbone", "build_resnet_fpn_backbone", *P6_P7_BACKBONES)
"""Names of all feature pyramids, the plugin's and detectron2's."""

TORCHVISION_ANCHORS = "TorchvisionAnchorGenerator"
"""Name of torchvision's anchors, which the portable engine alone has."""

C4_HEADS = ("Res5ROIHeads", "ResNeXtRes5ROIHeads")
"""Names of one head: detectron2's own, and the plugin's, whose res5 is that of any depth."""

SHARED_C4_HEAD = "ResNeXtSharedRes5ROIHeads"
"""Name of the head that computes the same, within rounding, and once what regions share."""

STANDARD_HEAD = "StandardROIHeads"
"""Name of detectron2's heads of DC5 and FPN."""

FAST_STANDARD_HEAD = "ResNeXtStandardROIHeads"
"""Name of the heads of DC5 and FPN that compute the same, within rounding, by another RoIAlign."""

CASCADE_HEAD = "CascadeROIHeads"
"""Name of detectron2's heads of Cascade R-CNN."""

FAST_CASCADE_HEAD = "ResNeXtCascadeROIHeads"
"""Name of the heads of Cascade R-CNN that compute the same, within rounding, by that RoIAlign."""

EXACT_HEADS = {FAST_STANDARD_HEAD: STANDARD_HEAD, FAST_CASCADE_HEAD: CASCADE_HEAD}
"""detectron2's name of the heads for each name of those with the faster RoIAlign."""

RPN_HEAD = "StandardRPNHead"
"""Name of detectron2's head of the RPN."""

SPARSE_RPN_HEAD = "ResNeXtSparseRPNHead"
"""Name of the RPN's head that computes the same, and its gradients faster and within rounding."""

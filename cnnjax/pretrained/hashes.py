"""The hashes and accuracies that torchvision and Keras publish of the nets since 2016; see `catalogue`."""

# What torchvision's files have at the end of their names, top-1, top-5.
TORCHVISION = (
    ("resnext50_32x4d", "7cdf4587", 77.618, 93.698),
    ("resnext50_32x4d:v2", "1a0047aa", 81.198, 95.340),
    ("resnext101_32x8d", "8ba56ff5", 79.312, 94.526),
    ("resnext101_32x8d:v2", "110c445d", 82.834, 96.228),
    ("wide_resnet50_2", "95faca4d", 78.468, 94.086),
    ("wide_resnet50_2:v2", "9ba9bcbe", 81.602, 95.758),
    ("wide_resnet101_2", "32ee1156", 78.848, 94.284),
    ("wide_resnet101_2:v2", "d733dc28", 82.510, 96.020),
    ("densenet121", "a639ec97", 74.434, 91.972),
    ("densenet169", "b2777c0a", 75.600, 92.806),
    ("densenet201", "c1103571", 76.896, 93.370),
    ("mobilenet_v2", "b0353104", 71.878, 90.286),
    ("mobilenet_v2:v2", "7ebf99e0", 72.154, 90.822),
    ("mobilenet_v3_small", "047dcff4", 67.668, 87.402),
    ("mobilenet_v3_large", "8738ca79", 74.042, 91.340),
    ("mobilenet_v3_large:v2", "5c1a4163", 75.274, 92.566),
    ("efficientnet_b0", "rwightman-7f5810bc", 77.692, 93.532),
    ("efficientnet_b1", "rwightman-bac287d4", 78.642, 94.186),
    ("efficientnet_b1:v2", "c27df63c", 79.838, 94.934),
    ("efficientnet_b2", "rwightman-c35c1473", 80.608, 95.310),
    ("efficientnet_b3", "rwightman-b3899882", 82.008, 96.054),
    ("efficientnet_b4", "rwightman-23ab8bcd", 83.384, 96.594),
    ("efficientnet_b5", "lukemelas-1a07897c", 83.444, 96.628),
    ("efficientnet_b6", "lukemelas-24a108a5", 84.008, 96.916),
    ("efficientnet_b7", "lukemelas-c5b4e57e", 84.122, 96.908),
    ("convnext_tiny", "983f1562", 82.520, 96.146),
    ("convnext_small", "0c510722", 83.616, 96.650),
    ("convnext_base", "6075fbad", 84.062, 96.870),
    ("convnext_large", "ea097f82", 84.414, 96.976),
)

# Keras's with the classifier, without, and the accuracies that Keras's site gives, if it does.
KERAS_DENSENET = (
    (121, "9d60b8095a5708f2dcce2bca79d332c7", "30ee3e1110167f948a6b9946edeeb738", (75.0, 92.3)),
    (169, "d699b8f76981ab1b30698df4c175e90b", "b8c4d4c20dd625c148057b9ff1c1176b", (76.2, 93.2)),
    (201, "1ceb130c1ea1b78c3bf6114dbdfd8807", "c13680b51ded0fb44dff2d8f86ac8bb1", (77.3, 93.6)),
)
KERAS_MOBILENET_V3 = (
    ("small", "8768d4c2e7dee89b9d02b2d03d65d862", "d3e8ec802a04aa4fc771ee12a9a9b836"),
    ("large", "59e551e166be033d707958cf9e29a6a7", "07fb09a5933dd0c8eaafa16978110389"),
)
KERAS_EFFICIENTNET = (
    ("902e53a9f72be733fc0bcb005b3ebbac", "50bc09e76180e00e4465e1a485ddc09d", (77.1, 93.3)),
    ("1d254153d4ab51201f1646940f018540", "74c4e6b3e1f6a1eea24c589628592432", (79.1, 94.4)),
    ("b15cce36ff4dcbd00b6dd88e7857a6ad", "111f8e2ac8aa800a7a99e3239f7bfb39", (80.1, 94.9)),
    ("ffd1fdc53d0ce67064dc6a9c7960ede0", "af6d107764bb5b1abb91932881670226", (81.6, 95.7)),
    ("18c95ad55216b8f92d7e70b3a046e2fc", "ebc24e6d6c33eaebbd558eafbeedf1ba", (82.9, 96.4)),
    ("ace28f2a6363774853a83a0b21b9421a", "38879255a25d3c92d5e44e04ae6cec6f", (83.6, 96.7)),
    ("165f6e37dce68623721b423839de8be5", "9ecce42647a20130c1f39a5d4cb75743", (84.0, 96.8)),
    ("8c03f828fec3ef71311cd463b6759d99", "cbcfe4450ddf6f3ad90b1b398090fe4a", (84.3, 97.0)),
)
KERAS_CONVNEXT = (
    (
        "tiny",
        "8ae6e78ce2933352b1ef4008e6dd2f17bc40771563877d156bc6426c7cf503ff",
        "d547c096cabd03329d7be5562c5e14798aa39ed24b474157cef5e85ab9e49ef1",
    ),
    (
        "small",
        "ce1277d8f1ee5a0ef0e171469089c18f5233860ceaf9b168049cb9263fd7483c",
        "6fc8009faa2f00c1c1dfce59feea9b0745eb260a7dd11bee65c8e20843da6eab",
    ),
    (
        "base",
        "52cbb006d3dadd03f6e095a8ca1aca47aecdd75acb4bc74bce1f5c695d0086e6",
        "40a20c5548a5e9202f69735ecc06c990e6b7c9d2de39f0361e27baeb24cb7c45",
    ),
    (
        "large",
        "070c5ed9ed289581e477741d3b34beffa920db8cf590899d6d2c67fba2a198a6",
        "96f02b6f0753d4f543261bc9d09bed650f24dd6bc02ddde3066135b63d23a1cd",
    ),
)

"""Losses: each one a pure function and a thin class around it."""

from distill.losses.alpha_beta import AlphaBeta
from distill.losses.attention import AttentionTransfer
from distill.losses.base import DistillationLoss, LossSum
from distill.losses.binary_cross_entropy import BinaryCrossEntropy
from distill.losses.binary_kl import BinaryKL
from distill.losses.contrastive_representation import ContrastiveRepresentation
from distill.losses.cosine import CosineHidden
from distill.losses.cross_entropy import CrossEntropy
from distill.losses.dist import DIST
from distill.losses.dkd import DecoupledKD
from distill.losses.feature_attention import FeatureAttention
from distill.losses.flow_of_solution import FlowOfSolution
from distill.losses.hint import FitNetHint
from distill.losses.hinton import HintonKL
from distill.losses.in_batch_negatives import InBatchNegatives
from distill.losses.jensen_shannon import JensenShannon
from distill.losses.l1 import L1
from distill.losses.logit_mse import LogitMSE
from distill.losses.margin_mse import MarginMSE
from distill.losses.minilm import RelationTransfer
from distill.losses.relational_kd import RelationalKD
from distill.losses.reverse import ReverseKL
from distill.losses.shared_vocabulary import SharedVocabularyKL
from distill.losses.similarity import SimilarityPreserving
from distill.losses.skew import SkewKL
from distill.losses.top_k import TopKKL
from distill.losses.total_variation import TotalVariation
from distill.losses.universal_logit import UniversalLogitDistillation
from distill.losses.variational_information import VariationalInformation
from distill.losses.vector_distance import VectorCosine, VectorMSE
from distill.losses.vector_similarity import VectorSimilarity

__all__ = [
    "DIST",
    "L1",
    "AlphaBeta",
    "AttentionTransfer",
    "BinaryCrossEntropy",
    "BinaryKL",
    "ContrastiveRepresentation",
    "CosineHidden",
    "CrossEntropy",
    "DecoupledKD",
    "DistillationLoss",
    "FeatureAttention",
    "FitNetHint",
    "FlowOfSolution",
    "HintonKL",
    "InBatchNegatives",
    "JensenShannon",
    "LogitMSE",
    "LossSum",
    "MarginMSE",
    "RelationTransfer",
    "RelationalKD",
    "ReverseKL",
    "SharedVocabularyKL",
    "SimilarityPreserving",
    "SkewKL",
    "TopKKL",
    "TotalVariation",
    "UniversalLogitDistillation",
    "VariationalInformation",
    "VectorCosine",
    "VectorMSE",
    "VectorSimilarity",
]

"""The libraries that Plimsoll is compared with: how each of them is built, set and asked. One thread, one query at a time.

A peer has `settings`; `build(rows)`; `set(setting)`; and `search(query)`, which returns the ids of the ten nearest rows.
`build_trivial(rows)` makes an index of ten rows, which is searched by the same call in no time, so that the cost of the call
itself is known. Rows are float32; where the metric is cosine, they and the queries have length 1."""

import numpy as np

K = 10
GRAPH_SETTINGS = [10, 16, 24, 32, 48, 64, 96, 128, 192, 256, 400, 600]
PROBES = [1, 2, 4, 6, 8, 12, 16, 24, 32, 48, 64, 96, 128]


class Hnswlib:
    settings = GRAPH_SETTINGS

    def __init__(self, dimension, cosine):
        import hnswlib

        self.index = hnswlib.Index("ip" if cosine else "l2", dimension)

    def build(self, rows):
        self.index.init_index(len(rows), ef_construction=200, M=16, random_seed=100)
        self.index.add_items(rows, num_threads=1)
        self.index.set_num_threads(1)

    build_trivial = build

    def set(self, ef):
        self.index.set_ef(ef)

    def search(self, query):
        return self.index.knn_query(query, K, num_threads=1)[0][0]


class Usearch:
    settings = GRAPH_SETTINGS

    def __init__(self, dimension, cosine):
        from usearch.index import Index

        metric = "ip" if cosine else "l2sq"
        self.index = Index(ndim=dimension, metric=metric, dtype="f32", connectivity=16, expansion_add=200)

    def build(self, rows):
        self.index.add(np.arange(len(rows), dtype=np.uint64), rows, threads=1)

    build_trivial = build

    def set(self, ef):
        self.index.expansion_search = ef

    def search(self, query):
        return self.index.search(query, K, threads=1).keys.astype(np.int64)


class Faiss:
    """An index of `index_factory`; `{half}` in its name is half of the dimension."""

    def __init__(self, dimension, cosine, factory, settings):
        import faiss

        faiss.omp_set_num_threads(1)
        self.faiss, self.settings = faiss, settings
        metric = faiss.METRIC_INNER_PRODUCT if cosine else faiss.METRIC_L2
        self.index = faiss.index_factory(dimension, factory.format(half=dimension // 2), metric)
        refined = isinstance(self.index, faiss.IndexRefine)
        self.inner = faiss.downcast_index(self.index.base_index) if refined else self.index

    def build(self, rows):
        if hasattr(self.inner, "hnsw"):
            self.inner.hnsw.efConstruction = 200
        self.index.train(rows)
        self.index.add(rows)

    def build_trivial(self, rows):
        self.index = self.faiss.IndexFlatL2(rows.shape[1])
        self.index.add(rows)

    def set(self, setting):
        look, refine = setting
        if hasattr(self.inner, "hnsw"):
            self.inner.hnsw.efSearch = look
            refine = min(refine, max(1, look / K))
        else:
            self.faiss.extract_index_ivf(self.index).nprobe = look
        if self.inner is not self.index:
            self.index.k_factor = refine

    def search(self, query):
        return self.index.search(query.reshape(1, -1), K)[1][0]


class Scann:
    settings = [(leaves, reorder) for reorder in (20, 40, 100, 200) for leaves in PROBES[1:]]

    def __init__(self, dimension, cosine):
        from scann.scann_ops.py import scann_ops_pybind

        self.scann, self.distance = scann_ops_pybind, "dot_product" if cosine else "squared_l2"

    def build(self, rows):
        leaves = max(1, min(512, len(rows) // 100))
        builder = self.scann.builder(rows, K, self.distance)
        builder = builder.tree(num_leaves=leaves, num_leaves_to_search=20, training_sample_size=len(rows))
        builder = builder.score_ah(2, anisotropic_quantization_threshold=0.2).reorder(100)
        self.index = builder.set_n_training_threads(1).build()

    def build_trivial(self, rows):
        self.index = self.scann.builder(rows, K, self.distance).score_brute_force().build()
        self.set((1, K))

    def set(self, setting):
        self.leaves, self.reorder = setting

    def search(self, query):
        found = self.index.search(
            query, final_num_neighbors=K, pre_reorder_num_neighbors=self.reorder, leaves_to_search=self.leaves
        )
        return found[0].astype(np.int64)


def faiss_hnsw(dimension, cosine):
    return Faiss(dimension, cosine, "HNSW16,Flat", [(ef, 1) for ef in GRAPH_SETTINGS])


def faiss_hnsw_sq8(dimension, cosine):
    return Faiss(dimension, cosine, "HNSW16_SQ8,RFlat", [(ef, 2) for ef in GRAPH_SETTINGS])


def faiss_ivf_pq(dimension, cosine):
    settings = [(probes, refine) for refine in (1, 2, 4, 10) for probes in PROBES]
    return Faiss(dimension, cosine, "IVF256,PQ{half}x4fs,RFlat", settings)


PEERS = {
    "hnswlib": Hnswlib,
    "usearch": Usearch,
    "faiss-hnsw": faiss_hnsw,
    "faiss-hnsw-sq8": faiss_hnsw_sq8,
    "faiss-ivf-pq": faiss_ivf_pq,
    "scann": Scann,
}

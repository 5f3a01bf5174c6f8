use std::time::Instant;
use plimsoll_codes::*;
use plimsoll_index::kmeans::{self, KmeansOptions};
use plimsoll_kernels::*;

fn npy_f16(path: &str, skip: usize, d: usize) -> Vec<f32> {
    let b = std::fs::read(path).unwrap();
    let v: Vec<f32> = b[skip..].chunks_exact(2).map(|c| half::f16::from_le_bytes([c[0], c[1]]).to_f32()).collect();
    let mut out = v;
    for row in out.chunks_exact_mut(d) { let n = dot(row, row).sqrt(); row.iter_mut().for_each(|x| *x /= n); }
    out
}

struct Aligned { v: Vec<u64>, len: usize }
impl Aligned { fn of(b: &[u8]) -> Self { let mut v = vec![0u64; b.len().div_ceil(8) + 8]; bytemuck::cast_slice_mut::<u64, u8>(&mut v)[..b.len()].copy_from_slice(b); Self { v, len: b.len() } }
  fn get(&self) -> &[u8] { &bytemuck::cast_slice::<u64, u8>(&self.v)[..self.len] } }

struct Index { w: usize, rot: Rotation, mean: Vec<f32>, cent: Vec<f32>, cent_blocks: Aligned, cent_high: Vec<u8>, lists: Vec<(usize, usize, usize)>, /* first block, first row, rows */ blocks: Aligned, high: Vec<u8>, low: Vec<u8>, ids: Vec<u32> }

#[derive(Default)]
struct Scratch { q: Vec<f32>, rq: Vec<f32>, sq: SignQuery, pq: PlaneQuery, order: Vec<(f32, u32)>, cand: Vec<u32>, first: Vec<(f32, u32)>, heap: Vec<(f32, u32)>, codes: usize, reranked: usize, lists: usize, t: [u64; 4] }

fn build(base: &[f32], d: usize, nlist: usize) -> Index {
    let n = base.len() / d;
    let mut mean = vec![0f64; d];
    for r in base.chunks_exact(d) { for (m, x) in mean.iter_mut().zip(r) { *m += *x as f64; } }
    let mean: Vec<f32> = mean.iter().map(|m| (*m / n as f64) as f32).collect();
    let rot = Rotation::new(d, 42);
    let w = rot.width();
    let t = Instant::now();
    let mut rows = vec![0f32; n * w];
    let mut tmp = vec![0f32; d];
    for (r, o) in base.chunks_exact(d).zip(rows.chunks_exact_mut(w)) { for i in 0..d { tmp[i] = r[i] - mean[i]; } rot.rotate(&tmp, o); }
    eprintln!("rotate {:?}", t.elapsed());
    let t = Instant::now();
    let sample: Vec<f32> = kmeans::sample_rows(n, nlist * 64, 1).into_iter().flat_map(|i| rows[i * w..][..w].to_vec()).collect();
    let cent = kmeans::train(&sample, w, nlist, KmeansOptions::default());
    let nl = cent.len() / w;
    eprintln!("kmeans {:?}", t.elapsed());

    let mut assign = vec![0u32; n];
    let cn: Vec<f32> = cent.chunks_exact(w).map(norm_squared).collect();
    let mut prod = vec![0f32; 256 * nl];
    for b in (0..n).step_by(256) {
        let e = n.min(b + 256);
        let p = &mut prod[..(e - b) * nl];
        dot_matrix(&rows[b * w..e * w], &cent, w, p);
        for i in b..e {
            let p = &p[(i - b) * nl..][..nl];
            let mut best = (f32::MAX, 0);
            for j in 0..nl { let v = cn[j] - 2.0 * p[j]; if v < best.0 { best = (v, j as u32); } }
            assign[i] = best.1;
        }
    }
    eprintln!("assign {:?}", t.elapsed());
    let t = Instant::now();
    let mut members = vec![Vec::new(); nl];
    for (i, a) in assign.iter().enumerate() { members[*a as usize].push(i as u32); }
    let mut enc = SignEncoder::new(w, Measure::L2);
    let pe = PlaneEncoder::new(Measure::L2);
    let (mut blocks, mut high, mut low, mut ids, mut lists) = (Vec::new(), Vec::new(), Vec::new(), Vec::new(), Vec::new());
    for (j, m) in members.iter().enumerate() {
        lists.push((blocks.len() / block_len(w), ids.len(), m.len()));
        enc.encode(m.iter().map(|i| &rows[*i as usize * w..][..w]), &cent[j * w..][..w], &mut blocks);
        for i in m { pe.encode(&rows[*i as usize * w..][..w], &mut high, &mut low); ids.push(*i); }
    }
    let mut cb = Vec::new();
    enc.encode(cent.chunks_exact(w), &vec![0.0; w], &mut cb);
    let (mut ch, mut cl) = (Vec::new(), Vec::new());
    for c in cent.chunks_exact(w) { pe.encode(c, &mut ch, &mut cl); }
    eprintln!("encode {:?}; {} lists", t.elapsed(), nl);
    Index { w, rot, mean, cent, cent_blocks: Aligned::of(&cb), cent_high: ch, lists, blocks: Aligned::of(&blocks), high, low, ids }
}

fn query(ix: &Index, q: &[f32], k: usize, np: usize, t_stop: f32, eps: f32, s: &mut Scratch) -> Vec<u32> {
    let w = ix.w;
    let t0 = Instant::now();
    s.q.clear();
    s.q.extend(q.iter().zip(&ix.mean).map(|(a, b)| a - b));
    s.rq.resize(w, 0.0);
    ix.rot.rotate(&s.q, &mut s.rq);
    s.sq.set(&s.rq);
    s.pq.set(&s.rq, Measure::L2);
    let t1 = Instant::now();
    // route
    let nl = ix.lists.len();
    let qq = norm_squared(&s.rq);
    let bound = s.sq.bound(qq, qq, 0.0);
    let bl = block_len(w);
    let mut out = [0f32; BLOCK];
    s.order.clear();
    for (b, bytes) in ix.cent_blocks.get().chunks_exact(bl).enumerate() {
        s.sq.scan(bytes, &[], &bound, f32::MAX, &mut out, &mut [0]).unwrap();
        for v in 0..BLOCK.min(nl - b * BLOCK) { s.order.push((out[v], (b * BLOCK + v) as u32)); }
    }
    let want = (2 * np).min(nl);
    if want < nl { s.order.select_nth_unstable_by(want - 1, |a, b| a.0.total_cmp(&b.0)); s.order.truncate(want); }
    let rl = record_len(w);
    for o in &mut s.order { o.0 = s.pq.distance(&ix.cent_high[o.1 as usize * rl..][..rl]).unwrap().distance; }
    s.order.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    s.order.truncate(np);
    let t2 = Instant::now();
    // scan
    s.heap.clear();
    let keep = k + 2;
    let mut kth = f32::MAX;
    let blocks = ix.blocks.get();
    for oi in 0..s.order.len() {
        let (g, l) = s.order[oi];
        if s.heap.len() >= keep && g > t_stop * kth { break; }
        s.lists += 1;
        let (fb, fr, n) = ix.lists[l as usize];
        let bound = s.sq.bound(g, g, eps);
        s.cand.clear();
        let nb = blocks_of(n);
        for b in 0..nb {
            let bytes = &blocks[(fb + b) * bl..][..bl];
            let limit = if kth == f32::MAX { f32::MAX } else { kth };
            let mut masks = [0];
            s.sq.scan(bytes, &[], &bound, limit, &mut out, &mut masks).unwrap();
            let [mut mask] = masks;
            while mask != 0 {
                let v = mask.trailing_zeros() as usize; mask &= mask - 1;
                let r = fr + b * BLOCK + v;
                if s.heap.len() < keep { s.first.push((out[v], r as u32)); continue; }
                s.cand.push(r as u32);
                prefetch(bytemuck::cast_slice(&ix.high[r * rl / 4 * 4..][..rl / 4 * 4]));
            }
        }
        s.codes += nb * BLOCK;
        let mut rerank = |s: &mut Scratch, r: u32, kth: &mut f32| {
            let dist = s.pq.distance(&ix.high[r as usize * rl..][..rl]).unwrap().distance;
            s.reranked += 1;
            if s.heap.len() < keep {
                s.heap.push((dist, r));
                if s.heap.len() == keep { s.heap.sort_unstable_by(|a, b| a.0.total_cmp(&b.0)); *kth = s.heap[k - 1].0; }
            } else if dist < s.heap[keep - 1].0 {
                let at = s.heap.partition_point(|x| x.0 <= dist);
                s.heap.pop();
                s.heap.insert(at, (dist, r));
                *kth = s.heap[k - 1].0;
            }
        };
        if s.heap.len() < keep {
            let mut all = std::mem::take(&mut s.first);
            let first = (keep + 4).min(all.len());
            if first < all.len() { all.select_nth_unstable_by(first - 1, |a, b| a.0.total_cmp(&b.0)); }
            for i in 0..all.len() { if i < first || all[i].0 <= kth { rerank(s, all[i].1, &mut kth); } }
            all.clear();
            s.first = all;
        } else {
            for i in 0..s.cand.len() { let r = s.cand[i]; rerank(s, r, &mut kth); }
        }
    }
    let t3 = Instant::now();
    let mut fin: Vec<(f64, u32)> = s.heap.iter().map(|(_, r)| {
        let r = *r as usize;
        let h = &ix.high[r * rl..][..rl];
        let d = s.pq.distance(h).unwrap();
        (s.pq.refine(d, h, &ix.low[r * w..][..w]).unwrap(), ix.ids[r])
    }).collect();
    fin.sort_unstable_by(|a, b| a.0.total_cmp(&b.0));
    fin.truncate(k);
    let t4 = Instant::now();
    for (i, d) in [t1 - t0, t2 - t1, t3 - t2, t4 - t3].into_iter().enumerate() { s.t[i] += d.as_nanos() as u64; }
    fin.into_iter().map(|x| x.1).collect()
}

fn main() {
    let d = 384;
    let dir = std::env::args().nth(2).expect("the directory of the data") + "/";
    let base = npy_f16(&format!("{dir}base.npy"), 128, d);
    let queries = npy_f16(&format!("{dir}queries.npy"), 128, d);
    let gt: Vec<i32> = std::fs::read(format!("{dir}ground_truth.ivecs")).unwrap().chunks_exact(4).map(|c| i32::from_le_bytes(c.try_into().unwrap())).collect();
    let nlist: usize = std::env::args().nth(1).map_or(256, |s| s.parse().unwrap());
    eprintln!("{:?}", Kernels::detect());
    let ix = build(&base, d, nlist);
    let nq = queries.len() / d;
    let k = 10;
    let stride = gt[0] as usize + 1;
    for (np, t, eps) in [(8, 9., 1.5), (16, 9., 1.5), (24, 9., 1.5), (32, 9., 1.5), (48, 9., 1.5), (64, 9., 1.5), (96, 9., 1.5), (160, 0.95, 1.5), (160, 1.0, 1.5), (160, 1.05, 1.5), (160, 1.1, 1.5), (160, 1.15, 1.5), (160, 1.1, 1.0), (160, 1.1, 2.0)] {
        let mut s = Scratch::default();
        for q in queries.chunks_exact(d).take(50) { query(&ix, q, k, np, t, eps, &mut s); }
        s = Scratch { q: s.q, rq: s.rq, sq: s.sq, pq: s.pq, order: s.order, cand: s.cand, heap: s.heap, ..Default::default() };
        let mut hit = 0;
        let mut ns: Vec<u64> = Vec::new();
        for (i, q) in queries.chunks_exact(d).enumerate() {
            let t0 = Instant::now();
            let got = query(&ix, q, k, np, t, eps, &mut s);
            ns.push(t0.elapsed().as_nanos() as u64);
            let truth = &gt[i * stride + 1..][..k];
            hit += got.iter().filter(|g| truth.contains(&(**g as i32))).count();
        }
        ns.sort();
        let n = nq as f64;
        println!("np {np:3} t {t:4} eps {eps}: recall {:.4} p50 {:.1} us mean {:.1} us | codes {:.0} reranked {:.1} lists {:.1} | prep {:.2} route {:.2} scan {:.2} final {:.2}", hit as f64 / n / k as f64, ns[nq / 2] as f64 / 1e3, ns.iter().sum::<u64>() as f64 / n / 1e3, s.codes as f64 / n, s.reranked as f64 / n, s.lists as f64 / n, s.t[0] as f64 / n / 1e3, s.t[1] as f64 / n / 1e3, s.t[2] as f64 / n / 1e3, s.t[3] as f64 / n / 1e3);
    }
}

//! Curves with few points that look as those with many, and smoothed ones.

use super::series::Point;

/// Points that a curve is drawn with at most.
pub(super) const MAX_POINTS: usize = 1000;

/// Keeps the lowest and the highest point of each bucket of neighbours, so that
/// no peak is lost, and the first and the last of all.
pub(super) fn extremes(points: &[Point]) -> Vec<Point> {
    if points.len() <= MAX_POINTS {
        return points.to_vec();
    }
    let mut kept = Vec::with_capacity(MAX_POINTS + 2);
    kept.push(points[0]);
    for bucket in buckets(points, MAX_POINTS / 2) {
        let by_value = |a: &&Point, b: &&Point| a.1.total_cmp(&b.1);
        let lowest = *bucket.iter().min_by(by_value).expect("buckets hold points");
        let highest = *bucket.iter().max_by(by_value).expect("buckets hold points");
        kept.extend([lowest, highest]);
        if highest.0 < lowest.0 {
            let end = kept.len();
            kept.swap(end - 2, end - 1);
        }
    }
    kept.push(points[points.len() - 1]);
    kept.dedup_by_key(|point| point.0);
    kept
}

/// Replaces each of `count` buckets of neighbours by its mean, in the middle of
/// its steps.
pub(super) fn means(points: &[Point], count: usize) -> Vec<Point> {
    if points.len() <= count {
        return points.to_vec();
    }
    let mean = |bucket: &[Point]| {
        let sum: f64 = bucket.iter().map(|point| point.1).sum();
        (bucket[bucket.len() / 2].0, sum / bucket.len() as f64)
    };
    buckets(points, count).map(mean).collect()
}

/// Mean over a window of neighbours on both sides of each point, so that the
/// curve does not lag. At the ends the window is cut.
pub(super) fn smooth(points: &[Point], half_window: usize) -> Vec<Point> {
    let mut sums = Vec::with_capacity(points.len() + 1);
    sums.push(0.0);
    for point in points {
        sums.push(sums[sums.len() - 1] + point.1);
    }
    let smoothed = |(idx, point): (usize, &Point)| {
        let (from, to) = (idx.saturating_sub(half_window), points.len().min(idx + half_window + 1));
        (point.0, (sums[to] - sums[from]) / (to - from) as f64)
    };
    points.iter().enumerate().map(smoothed).collect()
}

fn buckets(points: &[Point], count: usize) -> impl Iterator<Item = &[Point]> {
    (0..count).map(move |idx| &points[idx * points.len() / count..(idx + 1) * points.len() / count])
}

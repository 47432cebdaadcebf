// Causal attention over packed sequences. Legend: T tokens, H query heads, K key heads,
// G = H / K queries a key head, D head width, t queries and u keys of one sequence.
#include "prospect_shim.h"

#include "status.hpp"

#include <ATen/core/Tensor.h>
#include <ATen/ops/_flash_attention_forward.h>
#include <ATen/ops/cat.h>
#include <ATen/ops/full.h>
#include <ATen/ops/scaled_dot_product_attention.h>

#include <cmath>
#include <optional>

namespace {

// The last query is at the place of the last key. A mask is needed only where some, but not all
// of several queries see some keys and the kernel's own causal order, which begins at the first
// key, does not fit.
at::Tensor attend(const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  const int64_t num_queries = q.size(-2), num_keys = k.size(-2);
  std::optional<at::Tensor> mask;
  if (num_queries != num_keys && num_queries > 1) {
    mask = at::full({num_queries, num_keys}, -INFINITY, q.options().requires_grad(false))
               .triu_(num_keys - num_queries + 1);
  }
  return at::scaled_dot_product_attention(
      q, k, v, mask, /*dropout_p=*/0.0, /*is_causal=*/num_queries == num_keys, scale);
}

// [t,H,D], [u,H,D] -> [t,H,D]
at::Tensor attend_equal_heads(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  const auto heads_first = [](const at::Tensor& x) { return x.transpose(0, 1).unsqueeze(0); };
  return attend(heads_first(q), heads_first(k), heads_first(v), scale).squeeze(0).transpose(0, 1);
}

// [t,H,D], [u,K,D] -> [t,H,D]. Key heads become the batch and the queries of a group its heads,
// so that the fused kernel reads each key through a stride of zero instead of a copy.
at::Tensor attend_grouped(
    const at::Tensor& q, const at::Tensor& k, const at::Tensor& v, double scale) {
  const int64_t num_queries = q.size(0), key_heads = k.size(1), width = q.size(2);
  const int64_t num_keys = k.size(0), group = q.size(1) / key_heads;
  const auto queries = q.view({num_queries, key_heads, group, width}).permute({1, 2, 0, 3});
  const auto shared = [&](const at::Tensor& x) {
    return x.transpose(0, 1).unsqueeze(1).expand({key_heads, group, num_keys, width});
  };
  return attend(queries, shared(k), shared(v), scale)
      .permute({2, 0, 1, 3})
      .reshape({num_queries, key_heads * group, width});
}

} // namespace

int prospect_varlen_flash(
    const at::Tensor* q,
    const at::Tensor* k,
    const at::Tensor* v,
    const at::Tensor* query_offsets,
    const at::Tensor* key_offsets,
    int64_t max_queries,
    int64_t max_keys,
    double scale,
    at::Tensor** out,
    char** message) {
  return prospect::guarded(message, [&] {
    auto result = at::_flash_attention_forward(
        *q,
        *k,
        *v,
        *query_offsets,
        *key_offsets,
        max_queries,
        max_keys,
        /*dropout_p=*/0.0,
        /*is_causal=*/true, // the diagonal ends at the last query and the last key
        /*return_debug_mask=*/false,
        scale);
    *out = new at::Tensor(std::move(std::get<0>(result)));
  });
}

int prospect_varlen_sdpa(
    const at::Tensor* q,
    const at::Tensor* k,
    const at::Tensor* v,
    const int64_t* query_lengths,
    const int64_t* key_lengths,
    size_t num_sequences,
    double scale,
    at::Tensor** out,
    char** message) {
  return prospect::guarded(message, [&] {
    const at::IntArrayRef query_sizes(query_lengths, num_sequences);
    const at::IntArrayRef key_sizes(key_lengths, num_sequences);
    const bool equal_heads = q->size(1) == k->size(1);
    // One split, not one slice a sequence: the backward of a slice fills a whole tensor.
    const auto queries = q->split_with_sizes(query_sizes, 0);
    const auto keys = k->split_with_sizes(key_sizes, 0);
    const auto values = v->split_with_sizes(key_sizes, 0);
    std::vector<at::Tensor> results;
    results.reserve(num_sequences);
    for (size_t i = 0; i < num_sequences; ++i) {
      results.push_back(
          equal_heads ? attend_equal_heads(queries[i], keys[i], values[i], scale)
                      : attend_grouped(queries[i], keys[i], values[i], scale));
    }
    *out = new at::Tensor(at::cat(results, 0));
  });
}

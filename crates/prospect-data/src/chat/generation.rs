//! The `{% generation %}` tag of transformers, which marks the assistant's own
//! words for loss masks. It prints nothing itself, and minijinja does not know
//! it, so it is replaced by a scope that does nothing.

/// The template with `{% generation %}` and `{% endgeneration %}` as `{% with %}`
/// and `{% endwith %}`; white-space marks stay.
pub(super) fn without_generation_tags(source: &str) -> String {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(start) = rest.find("{%") {
        let (before, tag) = rest.split_at(start);
        out.push_str(before);
        let Some(end) = tag.find("%}") else {
            rest = tag;
            break;
        };
        let inner = &tag[2..end];
        let name = inner.trim_start_matches(['-', '+']).trim_end_matches(['-', '+']).trim();
        let replacement = match name {
            "generation" => Some("with"),
            "endgeneration" => Some("endwith"),
            _ => None,
        };
        match replacement {
            Some(word) => {
                out.push_str("{%");
                out.push_str(&inner.replace(name, word));
                out.push_str("%}");
                rest = &tag[end + 2..];
            }
            None => {
                out.push_str("{%");
                rest = &tag[2..];
            }
        }
    }
    out.push_str(rest);
    out
}

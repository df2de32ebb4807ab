//! Running text in lines of a given width.

/// `text` in lines of at most `width` columns, of which the first begins with `first` and the others with as many
/// spaces. Words that are longer than a line stand on one of their own.
pub(crate) fn wrapped(first: &str, text: &str, width: usize) -> String {
    let indent = " ".repeat(first.chars().count());
    let mut lines = String::new();
    for (number, paragraph) in text.lines().enumerate() {
        let mut line = if number == 0 { first.to_owned() } else { indent.clone() };
        let mut used = indent.len();
        let mut empty = true;
        for word in paragraph.split(' ') {
            let long = word.chars().count();
            if !empty && used + 1 + long > width {
                lines.push_str(line.trim_end());
                lines.push('\n');
                line.clone_from(&indent);
                used = indent.len();
                empty = true;
            }
            if !empty {
                line.push(' ');
                used += 1;
            }
            line.push_str(word);
            used += long;
            empty = false;
        }
        lines.push_str(line.trim_end());
        lines.push('\n');
    }
    lines
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lines_end_at_words_and_are_indented() {
        assert_eq!(wrapped("- ", "one two three four", 11), "- one two\n  three\n  four\n");
    }

    #[test]
    fn a_word_that_is_too_long_is_not_cut() {
        assert_eq!(wrapped("", "a /a/long/path b", 6), "a\n/a/long/path\nb\n");
    }
}

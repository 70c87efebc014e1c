//! Captions from class names, and their words as numbers.

use std::collections::BTreeSet;

use fd_compute::Stream;

/// What stands for the class's name in a template.
pub const NAME: &str = "{}";
/// Numbers of the words that every text has: nothing, its beginning, its end.
const PAD: u32 = 0;
const BEGIN: u32 = 1;
const END: u32 = 2;
const WORDS: usize = 3;

/// A caption in numbers.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Caption {
    /// Its words, behind them nothing `[N]`.
    pub words: Vec<u32>,
    /// The place of its end.
    pub end: u32,
}

/// Every caption there is, by class and template.
#[derive(Clone, Debug)]
pub struct Captions {
    captions: Vec<Vec<Caption>>,
    /// Words of the vocabulary.
    pub vocabulary: usize,
    /// Words of the longest caption N, beginning and end included.
    pub length: usize,
}

impl Captions {
    /// Of classes and templates; words are what stands between spaces and punctuation, in lower case.
    pub fn new(classes: &[String], templates: &[String]) -> Captions {
        let text = |class: &String, template: &String| words(&template.replace(NAME, class));
        let texts: Vec<Vec<Vec<String>>> = classes.iter().map(|c| templates.iter().map(|t| text(c, t)).collect()).collect();
        let vocabulary: BTreeSet<&String> = texts.iter().flatten().flatten().collect();
        let vocabulary: Vec<&String> = vocabulary.into_iter().collect();
        let length = texts.iter().flatten().map(|t| t.len() + 2).max().unwrap_or(2);
        let number = |word: &String| (WORDS + vocabulary.binary_search(&word).unwrap_or(0)) as u32;
        let caption = |text: &Vec<String>| {
            let mut numbers = vec![BEGIN];
            numbers.extend(text.iter().map(number));
            let end = numbers.len() as u32;
            numbers.push(END);
            numbers.resize(length, PAD);
            Caption { words: numbers, end }
        };
        let captions = texts.iter().map(|class| class.iter().map(caption).collect()).collect();
        Captions { captions, vocabulary: WORDS + vocabulary.len(), length }
    }

    /// A caption of a class: which template is a function of (seed, step, sample).
    pub fn draw(&self, class: u32, key: [u64; 3]) -> Option<&Caption> {
        let of_class = self.captions.get(class as usize)?;
        let at = (Stream::new(&key).uniform() * of_class.len() as f64) as usize;
        of_class.get(at.min(of_class.len().checked_sub(1)?))
    }
}

fn words(text: &str) -> Vec<String> {
    let parts = text.split(|c: char| !c.is_alphanumeric()).filter(|w| !w.is_empty());
    parts.map(str::to_lowercase).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn captions_by_hand() {
        let of = |texts: &[&str]| texts.iter().map(|t| t.to_string()).collect::<Vec<_>>();
        let captions = Captions::new(&of(&["T-shirt/top", "Bag"]), &of(&["a photo of a {}.", "{}"]));
        // a, bag, of, photo, shirt, t, top.
        assert_eq!((captions.vocabulary, captions.length), (10, 9));
        assert_eq!(captions.captions[1][1], Caption { words: vec![1, 4, 2, 0, 0, 0, 0, 0, 0], end: 2 });
        assert_eq!(captions.captions[0][0].words, [1, 3, 6, 5, 3, 8, 7, 9, 2]);
        let drawn: Vec<&Caption> = (0..100).filter_map(|sample| captions.draw(0, [7, 1, sample])).collect();
        assert_eq!(drawn.len(), 100);
        assert!(captions.captions[0].iter().all(|c| drawn.iter().filter(|d| **d == c).count() > 25));
        assert!(captions.draw(2, [0; 3]).is_none());
    }
}

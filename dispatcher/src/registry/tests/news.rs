//! What the bridge hears.

use super::super::news::{News, Published};
use super::*;

impl Table {
    fn news(&mut self) -> Vec<News> {
        std::mem::take(&mut self.news)
    }
}

/// In one word each: what it is, and of whom.
fn words(news: &[News]) -> Vec<String> {
    let word = |news: &News| match news {
        News::Published(Published { name, topic, .. }) => format!("{name} publishes {topic}"),
        News::Withdrawn { publication, epoch } => format!("{publication} of epoch {epoch} ended"),
        News::Wanted { selector, reliable, .. } => format!("{selector} wanted, reliable: {reliable}"),
        News::Unwanted { subscription } => format!("{subscription} ended"),
    };
    news.iter().map(word).collect()
}

#[test]
fn each_thing_is_told_when_it_comes_and_when_it_goes() {
    let mut table = Table::new();
    let node = table.attach("node");
    let early = table.publish(&node, "a/b", Schema::bytes());
    let wanted = table.subscribe(&node, "c/*", None);
    assert!(table.news().is_empty(), "nobody wants to know");

    table.registry.set_bridged(true);
    table.carry_out();
    assert_eq!(words(&table.news()), ["node publishes a/b", "c/* wanted, reliable: true"]);
    table.registry.set_bridged(true);
    table.carry_out();
    assert!(table.news().is_empty(), "told twice");

    let late = table.publish(&node, "d", Schema::bytes());
    let news = table.news();
    let [News::Published(published)] = &news[..] else { panic!("{news:?}") };
    assert_eq!((published.publication, published.epoch, published.node), (late.publication, 1, node.id));
    assert_eq!((&*published.base_name, &*published.schema), ("node", &late.schema));

    table.say(node.session, ToDispatcher::Unadvertise { publication: early.publication });
    table.say(node.session, ToDispatcher::Unsubscribe { subscription: wanted.subscription });
    let ended = [format!("{} of epoch 1 ended", early.publication), format!("{} ended", wanted.subscription)];
    assert_eq!(words(&table.news()), ended);
    table.kill(&node);
    assert_eq!(words(&table.news()), [format!("{} of epoch 1 ended", late.publication)]);

    table.registry.set_bridged(false);
    let other = table.attach("other");
    table.publish(&other, "a", Schema::bytes());
    assert!(table.news().is_empty());
}

#[test]
fn what_does_not_exist_yet_is_not_told() {
    let mut table = Table::new();
    table.registry.set_bridged(true);
    let node = table.attach("node");
    let advertise = table.advertise("a", Schema::bytes());
    table.say(node.session, ToDispatcher::Advertise(advertise.clone()));
    assert!(table.news().is_empty(), "it has no log yet");
    table.say(node.session, ToDispatcher::Unadvertise { publication: advertise.publication });
    assert!(table.news().is_empty(), "nobody heard of it");
}

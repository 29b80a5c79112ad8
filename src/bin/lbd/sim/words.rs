//! The simulated system in words.

use lbd::base::duration::exact;
use lbd::lab::{PoolKind, Setup};
use lbd::wire::ReplyPath;

use super::plan::{Along, StudyPlan};

/// Every property of the study, with all values of the option that has several.
pub fn of_plan(plan: &StudyPlan) -> Vec<(&'static str, String)> {
    let Along { name, values, .. } = &plan.along;
    let case = &plan.study.cases[0];
    let all = || values.iter().map(|(_, word)| word.as_str()).collect::<Vec<_>>().join(",");
    let mut words: Vec<_> = vec![("load", case.load.to_string())];
    words.extend(of(&case.setup));
    words.extend([("seed", plan.study.seed.to_string()), ("repeats", plan.study.repeats.to_string())]);
    words.into_iter().map(|(word, value)| if word == *name { (word, all()) } else { (word, value) }).collect()
}

/// Each property of a system with its value; properties without effect are left out.
fn of(setup: &Setup) -> Vec<(&'static str, String)> {
    let time = |time| exact(time).to_string();
    let of_one = setup.servers_of_one();
    let speeds =
        || setup.groups.iter().map(|group| format!("{}x{}", group.count, group.speed)).collect::<Vec<_>>();
    let spells = || {
        let spell = |spell: &lbd::lab::Spell| {
            let until = spell.until.map_or(String::new(), |until| {
                format!("..{}", time(until.since(lbd::base::time::Instant::ZERO)))
            });
            format!(
                "{}x{}@{}{until}",
                spell.count,
                spell.factor,
                time(spell.from.since(lbd::base::time::Instant::ZERO))
            )
        };
        setup.spells.iter().map(spell).collect::<Vec<_>>()
    };
    let mut words = vec![
        ("pool", if setup.kind == PoolKind::Native { "native" } else { "datagram" }.to_owned()),
        ("servers", setup.servers.to_string()),
        ("balancers", setup.balancers.to_string()),
        ("arrivals", setup.gaps.to_string()),
        ("service", setup.service.to_string()),
        ("rtt", time(setup.rtt)),
    ];
    let is_native = setup.kind == PoolKind::Native;
    let mut also = |holds: bool, word, value: &dyn Fn() -> String| {
        if holds {
            words.push((word, value()));
        }
    };
    also(of_one < setup.servers, "servers of each balancer", &|| of_one.to_string());
    also(!setup.groups.is_empty(), "speeds", &|| speeds().join(","));
    also(!setup.spells.is_empty(), "slow", &|| spells().join(","));
    also(setup.weighted, "weights", &|| "as the speeds".to_owned());
    also(is_native, "staleness", &|| time(setup.staleness));
    also(setup.reply_path == ReplyPath::Direct, "replies", &|| {
        if setup.reports_turns { "direct, reports at each" } else { "direct, reports at the interval only" }
            .to_owned()
    });
    also(!setup.jitter.is_zero(), "jitter", &|| time(setup.jitter));
    also(setup.loss > 0.0, "loss", &|| setup.loss.to_string());
    also(setup.clients > 0, "clients that try again", &|| setup.clients.to_string());
    if let Some(warmup) = setup.warmup {
        words.push(("warm-up", warmup.to_string()));
    }
    words
}

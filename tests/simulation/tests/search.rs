//! Everything that can happen to two hosts, within bounds; and for each rule, that it can be broken.

use simulation::{Bounds, Rule, Searched, VARIANTS, search};

/// What the search has seen.
fn keeps_all_rules(bounds: Bounds) -> Searched {
    search(bounds, None).unwrap_or_else(|broken| panic!("within {}: {broken}", bounds.name))
}

#[test]
fn two_failovers_with_a_join_between_them_break_no_rule() {
    assert_eq!(keeps_all_rules(Bounds::FAILOVERS).failovers, 2);
}

#[test]
fn backups_that_lag_and_differ_break_no_rule() {
    assert_eq!(keeps_all_rules(Bounds::DIFFERENCES).failovers, 1);
}

#[test]
fn cold_backups_break_no_rule() {
    assert_eq!(keeps_all_rules(Bounds::COLD).failovers, 2);
}

#[test]
fn guests_that_are_handed_over_break_no_rule() {
    assert_eq!(keeps_all_rules(Bounds::HAND_OVERS).failovers, 2);
}

#[test]
fn the_end_of_a_guest_and_hosts_that_give_up_break_no_rule() {
    assert_eq!(keeps_all_rules(Bounds::ENDS).failovers, 1);
}

#[test]
fn a_start_by_force_breaks_no_rule() {
    assert_eq!(keeps_all_rules(Bounds::FORCE).failovers, 1);
}

#[test]
fn late_writes_behind_the_fence_break_no_rule() {
    assert_eq!(keeps_all_rules(Bounds::DISK).failovers, 2);
}

#[test]
fn the_view_service_comes_and_goes_and_breaks_no_rule() {
    assert_eq!(keeps_all_rules(Bounds::SERVICE).failovers, 1);
}

/// Whatever breaks this rule on purpose is found, and told as that.
fn can_be_broken(rule: Rule) {
    let variants = VARIANTS.iter().filter(|it| it.rule == rule);
    let mut found = 0;
    for variant in variants {
        let broken = search(variant.bounds, Some(variant.defect));
        let broken = broken.expect_err("it is broken");
        assert_eq!(broken.rule, rule, "{:?}: {broken}", variant.defect);
        found += 1;
    }
    assert!(found > 0, "nothing breaks it");
}

#[test]
fn rule_1_the_primary_of_a_view_was_primary_or_backup_in_the_one_before() {
    can_be_broken(Rule::PrimaryWasMember);
}

#[test]
fn rule_2_no_output_before_the_backup_has_accepted_what_led_to_it() {
    can_be_broken(Rule::OutputAfterAcceptance);
}

#[test]
fn rule_3_a_backup_accepts_log_traffic_of_its_own_view_only() {
    can_be_broken(Rule::LogOfOwnView);
}

#[test]
fn rule_4_who_is_not_primary_answers_no_client_and_writes_no_disk() {
    can_be_broken(Rule::OnlyPrimaryActs);
}

#[test]
fn rule_5_every_input_is_before_or_after_a_state_transfer() {
    can_be_broken(Rule::InputBesideTransfer);
}

#[test]
fn what_a_client_has_seen_is_never_undone() {
    can_be_broken(Rule::NothingUndone);
}

#[test]
fn a_host_that_is_up_to_date_and_reaches_the_disk_server_gets_on() {
    can_be_broken(Rule::Progress);
}

#[test]
fn the_view_service_proposes_no_member() {
    can_be_broken(Rule::Advice);
}

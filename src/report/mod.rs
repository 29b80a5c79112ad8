//! Charts and pages of results. Pure: points and texts in, SVG and HTML out.

pub mod chart;
pub mod page;

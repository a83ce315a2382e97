//! Grams of CO2 for energy, by country and year. The figures stand in `co2.tsv`, with where they come from.

/// What a kilowatt-hour stands for in a place.
#[derive(Clone, Debug, PartialEq)]
pub struct Carbon {
    /// CO2 equivalent.
    pub grams_per_kwh: f64,
    pub area: Area,
    /// `None` for a setting.
    pub year: Option<u16>,
    pub source: &'static str,
}

/// What a figure is of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Area {
    /// ISO 3166-1, two letters.
    Country(&'static str),
    /// Of a country that nobody named, or that the table does not have.
    World,
    /// The operator says so.
    Site,
}

impl Area {
    pub fn name(&self) -> &str {
        match self {
            Self::Country(code) => code,
            Self::World => WORLD,
            Self::Site => "site",
        }
    }
}

impl Carbon {
    /// Of a country (ISO 3166-1, two letters), or of the site where the operator knows better.
    pub fn of(country: &str, set_grams_per_kwh: Option<f64>) -> Self {
        if let Some(grams_per_kwh) = set_grams_per_kwh {
            return Self { grams_per_kwh, area: Area::Site, year: None, source: SETTING };
        }
        let row = rows().find(|row| row.0 == country && country != WORLD).or_else(|| rows().find(|row| row.0 == WORLD));
        // The test below reads the whole table.
        let (code, year, grams_per_kwh) = row.unwrap_or((WORLD, 0, 0.0));
        let area = if code == WORLD { Area::World } else { Area::Country(code) };
        Self { grams_per_kwh, area, year: Some(year), source: SOURCE }
    }

    pub fn grams(&self, uj: u64) -> f64 {
        uj as f64 / UJ_PER_KWH * self.grams_per_kwh
    }
}

const SOURCE: &str = "Ember, Yearly Electricity Data, CC BY 4.0";
const SETTING: &str = "energy.grams_per_kwh";
const WORLD: &str = "World";
const UJ_PER_KWH: f64 = 3.6e12;

fn rows() -> impl Iterator<Item = (&'static str, u16, f64)> {
    include_str!("co2.tsv").lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut fields = line.split('\t');
        Some((fields.next()?, fields.next()?.parse().ok()?, fields.next()?.parse().ok()?))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_table_is_whole() {
        let lines = include_str!("co2.tsv").lines().filter(|line| !line.starts_with('#')).count();
        let all: Vec<_> = rows().collect();
        assert_eq!(all.len(), lines, "a line that is no row");
        for (code, year, grams) in &all {
            assert!(
                *code == WORLD || (code.len() == 2 && code.bytes().all(|byte| byte.is_ascii_uppercase())),
                "{code}"
            );
            assert!((2020..2100).contains(year) && (1.0..1500.0).contains(grams), "{code} {year} {grams}");
            assert_eq!(all.iter().filter(|row| row.0 == *code).count(), 1, "{code}");
        }
        let europe = "AT BE BG HR CY CZ DK EE FI FR DE GR HU IE IT LV LT LU MT NL PL PT RO SK SI ES SE GB CH NO";
        let others = "AE SA QA KW BH OM EG MA TN DZ JO LB SN CI NG KE RW ZA IN ID BR US";
        for code in europe.split(' ').chain(others.split(' ')) {
            assert!(matches!(Carbon::of(code, None).area, Area::Country(found) if found == code), "{code}");
        }
    }

    #[test]
    fn every_figure_says_where_it_comes_from() {
        let france = Carbon::of("FR", None);
        assert_eq!((france.grams_per_kwh, france.year, france.area.name()), (44.18, Some(2024), "FR"));
        assert!((france.grams(3_600_000_000_000) - 44.18).abs() < 1e-9);
        assert!(france.source.starts_with("Ember"));
        for unknown in ["ZZ", "World", ""] {
            let world = Carbon::of(unknown, None);
            assert_eq!((world.area, world.year), (Area::World, Some(2024)));
            assert!(world.grams_per_kwh > 400.0);
        }
        let own = Carbon::of("FR", Some(0.0));
        assert_eq!((own.grams(1), own.area, own.year, own.source), (0.0, Area::Site, None, "energy.grams_per_kwh"));
    }
}

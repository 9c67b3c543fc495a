//! What code in the database does that no text shows.

use super::queries::{
    ASKING_CODE, CHILDREN, COMPARISON_FUNCTIONS, LOUD, LOUD_OBJECTS, ODD_COLUMNS, QUIET_PROCEDURES,
    SOURCES,
};
use super::{Reading, volatility};
use crate::control::catalog::CatalogError;
use crate::core::catalog::{CatalogBuilder, LoudObject, Source, SourceRow, Target};
use crate::core::classify::Language;

impl Reading<'_> {
    pub(super) async fn load_others(
        &mut self,
        builder: &mut CatalogBuilder,
    ) -> Result<(), CatalogError> {
        let broken = |source| CatalogError::Query {
            what: "functions",
            source,
        };
        self.load_sources(builder).await?;
        for row in self.rows("procedures", QUIET_PROCEDURES).await? {
            builder.quiet_procedure(row.try_get(0).map_err(broken)?);
        }
        if !self
            .rows("sources of functions", ASKING_CODE)
            .await?
            .is_empty()
        {
            builder.code_that_asks_for_settings();
        }
        for row in self.rows("columns", ODD_COLUMNS).await? {
            builder.odd_column(row.try_get(0).map_err(broken)?);
        }
        for row in self.rows("operators", COMPARISON_FUNCTIONS).await? {
            builder.comparison_function(row.try_get(0).map_err(broken)?);
        }
        for row in self.rows("children of relations", CHILDREN).await? {
            let parent = row.try_get(0).map_err(broken)?;
            let child = row.try_get(1).map_err(broken)?;
            builder.reference(Source::Parent(parent), Target::Relation(child));
        }
        Ok(())
    }

    async fn load_sources(&mut self, builder: &mut CatalogBuilder) -> Result<(), CatalogError> {
        let what = "sources of functions";
        let broken = |source| CatalogError::Query { what, source };
        for row in self.rows(what, SOURCES).await? {
            let source: Option<&str> = row.try_get(3).map_err(broken)?;
            builder.source(&SourceRow {
                oid: row.try_get(0).map_err(broken)?,
                language: if row.try_get(1).map_err(broken)? {
                    Language::Read
                } else {
                    Language::Other
                },
                volatility: volatility(row.try_get(2).map_err(broken)?),
                source: source.unwrap_or_default(),
            });
        }
        for row in self.rows("code behind writes", LOUD_OBJECTS).await? {
            builder.loud_object(LoudObject {
                class: row.try_get(0).map_err(broken)?,
                oid: row.try_get(1).map_err(broken)?,
            });
        }
        Ok(())
    }

    /// Asks what reaches the code that leaves something behind, if there is any.
    pub(super) async fn load_loud(
        &mut self,
        builder: &mut CatalogBuilder,
    ) -> Result<(), CatalogError> {
        let what = "code behind writes";
        let broken = |source| CatalogError::Query { what, source };
        let found = builder.loud_objects();
        if found.is_empty() {
            return Ok(());
        }
        let classes: Vec<u32> = found.iter().map(|object| object.class).collect();
        let oids: Vec<u32> = found.iter().map(|object| object.oid).collect();
        for row in self.rows_with(what, LOUD, &[&classes, &oids]).await? {
            builder.loud(row.try_get(0).map_err(broken)?);
        }
        Ok(())
    }
}
